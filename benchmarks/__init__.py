"""What the package costs, as ratios to what would be used instead. ``python -m benchmarks`` runs all benchmarks."""
