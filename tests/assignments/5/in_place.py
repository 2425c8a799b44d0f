# Works in the caller's arrays.
def sgd_step(w, g, b, lr, momentum, weight_decay):
    g += weight_decay * w
    b = g if b is None else momentum * b + g
    return w - lr * b, b
