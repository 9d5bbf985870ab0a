/** docs/etsi-014-conformance.md is whole and true: 127 lines, each with tests that exist. */
import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, it } from '@jest/globals'

interface Line {
  readonly number: number
  readonly proofs: readonly { readonly file: string; readonly name: string }[]
}

const lines: Line[] = readFileSync('docs/etsi-014-conformance.md', 'utf8')
  .split('\n')
  .flatMap((text) => {
    const row = /^\| (\d+) \|/.exec(text)
    if (row === null) return []
    const proofs = [...text.matchAll(/`(test\/[^`]+)` › “([^”]+)”/g)].map((match) => ({ file: match[1]!, name: match[2]! }))
    return [{ number: Number(row[1]), proofs }]
  })

/** The strings a test file is written with: the names of its tests and of the cases in its tables. */
const namesIn = (file: string): Set<string> => {
  const source = readFileSync(file, 'utf8')
  return new Set(
    [...source.matchAll(/'((?:[^'\\\n]|\\.)*)'|`([^`]*)`|"([^"\n]*)"/g)].map((match) => match[1] ?? match[2] ?? match[3] ?? ''),
  )
}
const namesOf = new Map<string, Set<string>>()

describe('the conformance list', () => {
  it('has the lines 1 to 127, each once and in order', () => {
    expect(lines.map((line) => line.number)).toEqual(Array.from({ length: 127 }, (_, at) => at + 1))
  })

  it('names for each line at least one test, and every test it names exists', () => {
    const wrong: string[] = []
    for (const { number, proofs } of lines) {
      if (proofs.length === 0) wrong.push(`line ${number} has no proof`)
      for (const { file, name } of proofs) {
        if (!existsSync(file)) wrong.push(`line ${number}: no file ${file}`)
        else {
          if (!namesOf.has(file)) namesOf.set(file, namesIn(file))
          if (!namesOf.get(file)!.has(name)) wrong.push(`line ${number}: no "${name}" in ${file}`)
        }
      }
    }
    expect(wrong).toEqual([])
  })
})
