"""The user's model, loss and data: lent, called as the user calls them, and put back."""
