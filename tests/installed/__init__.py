"""What does not depend on the Python: packages, man pages, completions. These tests run once."""
