# The norms of the columns.
def effective_step_size(w, lr):
    return lr / (w * w).sum(axis=0)
