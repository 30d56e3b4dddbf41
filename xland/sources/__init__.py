"""Opening coarse fractions, observed maps and predictors."""
