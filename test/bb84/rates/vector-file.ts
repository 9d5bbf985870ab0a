/** The vectors of test/vectors, as JSON. */
import { readFileSync } from 'node:fs'

export const vectorFile = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../vectors/${name}`, import.meta.url), 'utf8'))

/** The worth of the last of `digits` significant digits: how exact a printed value is. */
export const lastDigit = (value: number, digits: number): number =>
  value === 0 ? 0 : 10 ** (Math.floor(Math.log10(Math.abs(value))) - digits + 1)
