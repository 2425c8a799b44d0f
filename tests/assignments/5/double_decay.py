# The derivative of decay ||w||^2 instead of decay/2 ||w||^2.
def sgd_step(w, g, b, lr, momentum, weight_decay):
    g = g + 2 * weight_decay * w
    b = g if b is None else momentum * b + g
    return w - lr * b, b
