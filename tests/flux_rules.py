"""What Flux computes, in float64: each function takes a parameter and its gradients, and gives the
parameter after the last step."""

import numpy as np


def descent(x, gradients, eta=0.1):
    for g in gradients:
        x = x - eta * g
    return x


def momentum(x, gradients, eta=0.01, rho=0.9):
    v = 0
    for g in gradients:
        v = rho * v + eta * g
        x = x - v
    return x


def nesterov(x, gradients, eta=0.001, rho=0.9):
    v = 0
    for g in gradients:
        x = x - ((1 + rho) * eta * g - rho**2 * v)
        v = rho * v - eta * g
    return x


def rprop(x, gradients, eta=1e-3, ell=(0.5, 1.2), gamma=(1e-6, 50.0)):
    old, length = np.zeros_like(x), np.full_like(x, eta)
    for g in gradients:
        length = np.where(old * g > 0, np.minimum(length * ell[1], gamma[1]), length)
        length = np.where(old * g < 0, np.maximum(length * ell[0], gamma[0]), length)
        old = np.where(old * g < 0, 0, g)
        x = x - length * np.sign(old)
    return x


def rmsprop(x, gradients, eta=0.001, rho=0.9, epsilon=1e-8, centred=False):
    q = mean = 0
    for g in gradients:
        q = rho * q + (1 - rho) * g**2
        mean = rho * mean + (1 - rho) * g if centred else 0
        x = x - eta * g / (np.sqrt(q - mean**2) + epsilon)
    return x


def adagrad(x, gradients, eta=0.1, epsilon=1e-8):
    a = epsilon
    for g in gradients:
        a = a + g**2
        x = x - eta * g / (np.sqrt(a) + epsilon)
    return x


def adadelta(x, gradients, rho=0.9, epsilon=1e-8):
    a = d = 0
    for g in gradients:
        a = rho * a + (1 - rho) * g**2
        step = g * np.sqrt(d + epsilon) / np.sqrt(a + epsilon)
        d = rho * d + (1 - rho) * step**2
        x = x - step
    return x


def adam(x, gradients, eta=0.001, beta=(0.9, 0.999), epsilon=1e-8):
    return adamw(x, gradients, eta, beta, 0, epsilon)


def adamw(x, gradients, eta=0.001, beta=(0.9, 0.999), λ=0, epsilon=1e-8, couple=True):
    for _, m_hat, v_hat, _ in moments(gradients, beta):
        step = m_hat / (np.sqrt(v_hat) + epsilon)
        x = x - (eta * (step + λ * x) if couple else eta * step + λ * x)
    return x


def moments(gradients, beta):
    """`t`, the corrected means, and the gradient."""
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m = beta[0] * m + (1 - beta[0]) * g
        v = beta[1] * v + (1 - beta[1]) * g**2
        yield t, m / (1 - beta[0] ** t), v / (1 - beta[1] ** t), g


def radam(x, gradients, eta=0.001, beta=(0.9, 0.999), epsilon=1e-8):
    most = 2 / (1 - beta[1]) - 1
    for t, m_hat, v_hat, _ in moments(gradients, beta):
        p = most - 2 * t * beta[1] ** t / (1 - beta[1] ** t)
        if p > 4:
            r = np.sqrt((p - 4) * (p - 2) * most / ((most - 4) * (most - 2) * p))
            x = x - eta * r * m_hat / (np.sqrt(v_hat) + epsilon)
        else:
            x = x - eta * m_hat
    return x


def adamax(x, gradients, eta=0.001, beta=(0.9, 0.999), epsilon=1e-8):
    m = u = 0
    for t, g in enumerate(gradients, 1):
        m = beta[0] * m + (1 - beta[0]) * g
        u = np.maximum(beta[1] * u, np.abs(g))
        x = x - eta / (1 - beta[0] ** t) * m / (u + epsilon)
    return x


def oadam(x, gradients, eta=0.001, beta=(0.5, 0.9), epsilon=1e-8):
    last = 0
    for _, m_hat, v_hat, _ in moments(gradients, beta):
        step = eta * m_hat / (np.sqrt(v_hat) + epsilon)
        x = x - (2 * step - last)
        last = step
    return x


def amsgrad(x, gradients, eta=0.001, beta=(0.9, 0.999), epsilon=1e-8):
    m = v = most = epsilon
    for g in gradients:
        m = beta[0] * m + (1 - beta[0]) * g
        v = beta[1] * v + (1 - beta[1]) * g**2
        most = np.maximum(most, v)
        x = x - eta * m / (np.sqrt(most) + epsilon)
    return x


def nadam(x, gradients, eta=0.001, beta=(0.9, 0.999), epsilon=1e-8):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m = beta[0] * m + (1 - beta[0]) * g
        v = beta[1] * v + (1 - beta[1]) * g**2
        ahead = beta[0] * m / (1 - beta[0] ** (t + 1)) + (1 - beta[0]) * g / (1 - beta[0] ** t)
        x = x - eta * ahead / (np.sqrt(v * beta[1] / (1 - beta[1] ** t)) + epsilon)
    return x


def adabelief(x, gradients, eta=0.001, beta=(0.9, 0.999), epsilon=1e-16):
    m = s = 0
    for t, g in enumerate(gradients, 1):
        m = beta[0] * m + (1 - beta[0]) * g
        s = beta[1] * s + (1 - beta[1]) * (g - m) ** 2 + epsilon
        x = x - eta * m / (1 - beta[0] ** t) / (np.sqrt(s / (1 - beta[1] ** t)) + epsilon)
    return x


def lion(x, gradients, eta=0.001, beta=(0.9, 0.999)):
    m = 0
    for g in gradients:
        m = beta[1] * g + (1 - beta[1]) * m
        x = x - eta * np.sign((beta[1] - beta[0]) * g + beta[0] * m)
    return x
