"""Write every synthetic data set and image file of the tests: small, deterministic, no download."""
