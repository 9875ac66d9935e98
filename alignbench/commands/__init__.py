"""What a command of the CLI does beyond running a recipe."""
