"""`aspo doctor`: whether what is installed fits together, and what a run would lack on this machine."""
