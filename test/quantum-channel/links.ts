/** The six links whose statistics are judged: 0 to 100 km, with and without afterpulses and dead time. */
import { profileNamed } from '../../src/bb84/profile.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'

export const LINKS: readonly (readonly [string, Bb84Profile])[] = [
  ['metro at 0 km', profileNamed('metro', { distanceKm: 0 })],
  ['metro at 5 km, dead for 100 ns', profileNamed('metro', { receiver: { deadTimeNs: 100 } })],
  ['lab-2014 at 25 km, afterpulses', profileNamed('lab-2014')],
  ['gys at 20 km', profileNamed('gys')],
  [
    'ingaas at 50 km, afterpulses and dead for 5 microseconds',
    profileNamed('ingaas', { distanceKm: 50, receiver: { deadTimeNs: 5_000, afterpulseProbability: 0.05 } }),
  ],
  ['metro at 100 km', profileNamed('metro', { distanceKm: 100, receiver: { darkCountProbability: 1e-5 } })],
]
