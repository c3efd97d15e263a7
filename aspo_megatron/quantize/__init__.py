"""`aspo quantize`: a trained model with weights of 8 or 4 bits, for servers, and what that changes."""
