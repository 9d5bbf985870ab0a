/** Looks for key bytes in files: raw, base64, base64url and hex, by windows of 12 bytes, so that a part of a key is found too. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

const WINDOW_BYTES = 12

/** Every file below a folder. */
export const filesBelow = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    return entry.isDirectory() ? filesBelow(path) : entry.isFile() ? [path] : []
  })

/** The texts and bytes a key would be seen as. */
const formsOf = (key: Buffer): Buffer[] => [
  key,
  Buffer.from(key.toString('base64')),
  Buffer.from(key.toString('base64url')),
  Buffer.from(key.toString('hex')),
  Buffer.from(key.toString('hex').toUpperCase()),
]

export interface Finding {
  readonly file: string
  readonly offset: number
}

/** Searches all files for any window of any form of any key. */
export const findKeys = (files: readonly string[], keys: readonly Buffer[]): Finding[] => {
  const windows = new Set<string>()
  // Two bytes of a window tell most places in a file apart without building a string.
  const first = new Uint8Array(65_536)
  for (const key of keys) {
    for (const form of formsOf(key)) {
      for (let at = 0; at + WINDOW_BYTES <= form.length; at += 1) {
        windows.add(form.toString('latin1', at, at + WINDOW_BYTES))
        first[form.readUInt16BE(at)] = 1
      }
    }
  }
  const findings: Finding[] = []
  for (const file of files) {
    // A file PostgreSQL removed in the meantime holds nothing any more.
    const content = statSync(file, { throwIfNoEntry: false }) === undefined ? Buffer.alloc(0) : readFileSync(file)
    for (let at = 0; at + WINDOW_BYTES <= content.length; at += 1) {
      if (first[content[at]! * 256 + content[at + 1]!] === 1 && windows.has(content.toString('latin1', at, at + WINDOW_BYTES))) {
        findings.push({ file, offset: at })
        break
      }
    }
  }
  return findings
}
