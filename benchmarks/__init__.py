"""What the package costs, as ratios to what one would use without it. Run all: ``python -m benchmarks``."""
