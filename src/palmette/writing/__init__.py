"""Models that read and write text: text-to-text models and language models, local or remote."""
