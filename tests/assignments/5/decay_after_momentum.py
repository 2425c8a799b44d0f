# The decay does not go through the buffer.
def sgd_step(w, g, b, lr, momentum, weight_decay):
    b = g if b is None else momentum * b + g
    return w - lr * (b + weight_decay * w), b
