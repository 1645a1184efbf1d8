"""Storage in memory, for tests and simulations."""
