"""How good a map is: confusion matrices and scores beside baselines."""
