"""Opening coarse fractions and observed maps."""
