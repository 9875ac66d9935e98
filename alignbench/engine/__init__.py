"""The parent process: a recipe in, a comparison out. It never imports torch."""
