"""What is made for systems and not for one Python: run once, and not again on each other Python
(tools/test-pythons leaves it out)."""
