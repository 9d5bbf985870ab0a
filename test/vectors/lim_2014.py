#!/usr/bin/env python3
"""Second implementation of the two-decoy key length (Lim et al., PRA 89, 022307 (2014)), written from the paper's equations and not
from the TypeScript: test/bb84/rates compares the two. Standard library only.

  python3 test/vectors/lim_2014.py > test/vectors/lim-2014-random.json

Where the paper is silent: a bound on a number of events lies between zero and what was counted; fewer than one error counts as one;
an upper bound of errors below zero, no single photons to test with, or an error rate of a half give a phase error rate of a half.
"""
import json
import random
from math import exp, factorial, floor, log, log2, sqrt

ROWS = 1000
SEED = 2014


def key_length(mu, p, eps_sec, eps_cor, n_x, n_z, m_z, leak):
    mu1, mu2, mu3 = mu

    def tau(n):
        return sum(pk * exp(-k) * k ** n / factorial(n) for k, pk in zip(mu, p))

    def plus(counts, j):
        whole = sum(counts)
        return exp(mu[j]) / p[j] * (counts[j] + sqrt(whole / 2 * log(21 / eps_sec)))

    def minus(counts, j):
        whole = sum(counts)
        return exp(mu[j]) / p[j] * (counts[j] - sqrt(whole / 2 * log(21 / eps_sec)))

    def vacuum(counts):
        # eq. (2)
        value = tau(0) / (mu2 - mu3) * (mu2 * minus(counts, 2) - mu3 * plus(counts, 1))
        return min(max(value, 0.0), sum(counts))

    def single(counts):
        # eq. (3)
        s0 = vacuum(counts)
        bracket = minus(counts, 1) - plus(counts, 2)
        bracket -= (mu2 ** 2 - mu3 ** 2) / mu1 ** 2 * (plus(counts, 0) - s0 / tau(0))
        value = mu1 * tau(1) / (mu1 * (mu2 - mu3) - (mu2 ** 2 - mu3 ** 2)) * bracket
        return min(max(value, 0.0), sum(counts) - s0)

    def gamma(a, b, c, d):
        first = (c + d) * (1 - b) * b / (c * d * log(2))
        second = log2((c + d) / (c * d * (1 - b) * b) * 21 ** 2 / a ** 2)
        return sqrt(first * second)

    s_x0, s_x1, s_z1 = vacuum(n_x), single(n_x), single(n_z)
    # eq. (4)
    v_z1 = tau(1) / (mu2 - mu3) * (plus(m_z, 1) - minus(m_z, 2))
    # eq. (5)
    phi = 0.5
    if s_x1 > 0 and s_z1 > 0 and v_z1 >= 0:
        rate = max(v_z1, 1.0) / s_z1
        if rate < 0.5:
            phi = min(0.5, rate + gamma(eps_sec, rate, s_z1, s_x1))
    entropy = 1.0 if phi == 0.5 else -phi * log2(phi) - (1 - phi) * log2(1 - phi)
    # eq. (1)
    bits = s_x0 + s_x1 * (1 - entropy) - leak - 6 * log2(21 / eps_sec) - log2(2 / eps_cor)
    length = min(max(floor(bits), 0), sum(n_x))
    return {"sX0": s_x0, "sX1": s_x1, "phi": phi, "unclippedBits": bits, "lengthBits": length}


def table(draw):
    """Counts like those of a link, now and then absurd ones: what an attacker or a fault may produce must agree as well."""
    mu3 = draw.choice([0.0, 0.0002, draw.uniform(0, 0.05)])
    mu2 = mu3 + draw.uniform(0.02, 0.35)
    mu1 = mu2 + mu3 + draw.uniform(0.02, 0.7)
    weights = [draw.uniform(0.05, 1) for _ in range(3)]
    p = [w / sum(weights) for w in weights]
    mu = [mu1, mu2, mu3]
    eta = 10 ** draw.uniform(-4, -0.3)
    background = 10 ** draw.uniform(-8, -4)
    error = draw.uniform(0, 0.06)
    q_x = draw.uniform(0.3, 0.97)
    block = 10 ** draw.uniform(4, 9)

    click = [1 - (1 - background) * exp(-eta * k) for k in mu]
    wrong = [background / 2 + error * (1 - exp(-eta * k)) for k in mu]
    pulses = block / (q_x ** 2 * sum(pk * c for pk, c in zip(p, click)))

    def noisy(mean):
        return max(0, round(draw.gauss(mean, sqrt(mean))))

    n_x = [noisy(pulses * q_x ** 2 * pk * c) for pk, c in zip(p, click)]
    n_z = [noisy(pulses * (1 - q_x) ** 2 * pk * c) for pk, c in zip(p, click)]
    m_z = [min(n, noisy(pulses * (1 - q_x) ** 2 * pk * w)) for n, pk, w in zip(n_z, p, wrong)]
    kind = draw.random()
    if kind < 0.05:
        m_z = [0, 0, 0]
    elif kind < 0.1:
        n_x, n_z, m_z = ([draw.randint(0, 10 ** draw.randint(0, 6)) for _ in range(3)] for _ in range(3))
        m_z = [min(m, n) for m, n in zip(m_z, n_z)]
    elif kind < 0.12:
        n_z, m_z = [0, 0, 0], [0, 0, 0]
    elif kind < 0.14:
        n_x = [0, 0, 0]
    share = sum(m_z) / sum(n_z) if sum(n_z) else 0.5
    entropy = 0.0 if share in (0, 1) else -share * log2(share) - (1 - share) * log2(1 - share)
    leak = round(draw.uniform(1, 1.3) * sum(n_x) * entropy)
    eps_sec = draw.choice([1e-9, 1e-10, 1e-12])
    return mu, p, eps_sec, 1e-15, n_x, n_z, m_z, leak


def main():
    draw = random.Random(SEED)
    names = ["intensities", "intensityProbabilities", "epsilonSecrecy", "epsilonCorrectness", "nX", "nZ", "mZ", "leakBits"]
    rows = []
    for _ in range(ROWS):
        values = table(draw)
        rows.append(json.dumps({**dict(zip(names, values)), **key_length(*values)}))
    print("[")
    print(",\n".join("  " + row for row in rows))
    print("]")


if __name__ == "__main__":
    main()
