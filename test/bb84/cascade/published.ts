/** What goals the efficiency of Cascade is held to, and the published channel uses: Martinez-Mateo et al., QIC 15, 453
 *  (2015), table 3, frames of 2^14 bits. */

export const PUBLISHED: readonly { readonly qber: number; readonly highestF: number; readonly channelUses: number }[] = [
  { qber: 0.01, highestF: 1.046, channelUses: 208.8 },
  { qber: 0.02, highestF: 1.044, channelUses: 407.6 },
  { qber: 0.05, highestF: 1.047, channelUses: 432.6 },
  { qber: 0.11, highestF: 1.066, channelUses: 998.4 },
]

/** Frames of 2^16 bits. */
export const LONG_FRAMES: readonly { readonly qber: number; readonly highestF: number }[] = [
  { qber: 0.01, highestF: 1.035 },
  { qber: 0.02, highestF: 1.035 },
  { qber: 0.05, highestF: 1.042 },
  { qber: 0.11, highestF: 1.062 },
]
