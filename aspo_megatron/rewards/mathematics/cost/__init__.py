"""What computing a formula would cost, told without computing it."""
