"""What is shown: each module renders strings, the caller writes them."""
