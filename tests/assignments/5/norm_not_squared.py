# lr / ||w||.
def effective_step_size(w, lr):
    return lr / np.sqrt((w * w).sum(axis=1))
