"""The built-in judges: the hidden reward, reward models, language models, classifiers."""
