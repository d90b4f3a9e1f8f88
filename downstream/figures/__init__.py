"""What predictions are worth: metrics, lifts with intervals, doses, the oracle."""
