"""How good a map is: confusion matrices, scores beside baselines, and the report."""
