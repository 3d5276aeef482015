"""What a training run does, whatever it trains."""
