"""Publishing of databases on the Hugging Face Hub, and copies of published ones."""
