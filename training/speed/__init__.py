"""The comparisons of `benchmarks/speed` that need `training`, which `benchmarks` may not import."""
