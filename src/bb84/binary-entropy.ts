/** h(x) = -x log2 x - (1 - x) log2(1 - x), in bits; h(0) = h(1) = 0. */
export const binaryEntropy = (x: number): number => (x <= 0 || x >= 1 ? 0 : -x * Math.log2(x) - (1 - x) * Math.log2(1 - x))
