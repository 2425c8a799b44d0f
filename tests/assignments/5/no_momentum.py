# The buffer is returned but never used.
def sgd_step(w, g, b, lr, momentum, weight_decay):
    g = g + weight_decay * w
    return w - lr * g, g
