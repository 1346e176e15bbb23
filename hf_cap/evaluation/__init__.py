"""What a trained classifier is worth: accuracy, faithfulness, agreement with a prior, robustness."""
