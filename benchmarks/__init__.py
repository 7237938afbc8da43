"""What a run costs, beside what it must cost: `python -m benchmarks`. README.md explains each row."""
