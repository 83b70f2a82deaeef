"""The check of a diagonal by values of the loss, which know no autograd."""
