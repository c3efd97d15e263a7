"""Problems where they are kept: files, Hugging Face datasets, reasoning-gym families."""
