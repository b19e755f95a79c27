"""Measure the compiled worker, and measure it against what people would use instead."""
