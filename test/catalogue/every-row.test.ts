/** Every row of the bad-input catalogue is tested somewhere under its number, or stands here with what it waits for. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from '@jest/globals'

/** How many rows each table has. */
const TABLES: Readonly<Record<string, number>> = { T: 30, R: 34, H: 32, Q: 14, J: 31, K: 38, D: 26, P: 28 }

const WAITING: Readonly<Record<string, string>> = {}

const testFiles = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? testFiles(join(folder, entry.name)) : entry.name.endsWith('.test.ts') ? [join(folder, entry.name)] : [],
  )

/** Row numbers at the beginning of names of tests and cases: 'K01 ...', 'D06 D22 ...', 'H14-H18 ...'. */
const rowsNamed = (): Set<string> => {
  const rows = new Set<string>()
  for (const file of testFiles('test')) {
    if (file.endsWith('every-row.test.ts')) continue
    for (const [, numbers] of readFileSync(file, 'utf8').matchAll(/['`"]((?:[TRHQJKDP]\d\d[ -])*[TRHQJKDP]\d\d)(?=[ '`"])/g)) {
      const [first, ...more] = numbers!.match(/[TRHQJKDP]\d\d/g)!
      rows.add(first)
      for (const row of more) rows.add(row)
      if (numbers!.includes('-')) {
        for (let at = Number(first.slice(1)); at <= Number(more[0]!.slice(1)); at += 1)
          rows.add(`${first[0]}${String(at).padStart(2, '0')}`)
      }
    }
  }
  return rows
}

describe('the bad-input catalogue', () => {
  it('has a test for each of its rows, or says what the row waits for', () => {
    const named = rowsNamed()
    const all = Object.entries(TABLES).flatMap(([table, count]) =>
      Array.from({ length: count }, (_, at) => `${table}${String(at + 1).padStart(2, '0')}`),
    )
    expect(all.filter((row) => !named.has(row) && !(row in WAITING))).toEqual([])
    expect(Object.keys(WAITING).filter((row) => named.has(row))).toEqual([])
  })
})
