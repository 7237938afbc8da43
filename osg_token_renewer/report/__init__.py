"""What people and programs read: each module renders strings, the caller writes them."""
