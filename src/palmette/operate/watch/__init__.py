"""Whether what is asked and answered now is still like what the model was measured on."""
