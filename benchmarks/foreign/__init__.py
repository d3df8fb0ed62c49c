"""What clients of other libraries do with a refusal, measured with the libraries themselves."""
