"""What is made of observations, on the host: expectations, versions, verdicts."""
