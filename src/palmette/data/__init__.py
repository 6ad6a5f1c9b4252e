"""Files -> records; records that say the same -> one example."""
