/** The lint bans fire: time, randomness, environment and exit are arguments or belong elsewhere. */
import { describe, expect, it } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

const BANNED: readonly [code: string, rule: string][] = [
  ['export const a = Date.now()', 'no-restricted-properties'],
  ['export const a = new Date()', 'no-restricted-syntax'],
  ['export const a = Math.random()', 'no-restricted-properties'],
  ['export const a = process.env', 'no-restricted-properties'],
  ['process.exit(1)', 'no-restricted-properties'],
  ['setTimeout(() => undefined, 1)', 'no-restricted-globals'],
  ['setInterval(() => undefined, 1)', 'no-restricted-globals'],
  ["import { randomBytes } from 'node:crypto'; export const a = randomBytes(1)", 'no-restricted-imports'],
  ["import { randomUUID } from 'node:crypto'; export const a = randomUUID()", 'no-restricted-imports'],
  ["import { setTimeout as wait } from 'node:timers/promises'; export const a = wait", 'no-restricted-imports'],
  ['export default 1', 'no-restricted-syntax'],
  ['console.log(1)', 'no-console'],
  ['export const a = (): void => { Promise.resolve() }', '@typescript-eslint/no-floating-promises'],
  [
    'export const a = (b: "x" | "y"): void => { switch (b) { case "x": break } }',
    '@typescript-eslint/switch-exhaustiveness-check',
  ],
]

interface Result {
  readonly messages: readonly { readonly ruleId: string | null; readonly line: number }[]
}

describe('the lint bans', () => {
  // One statement a line, judged as if it stood in this file of the tree.
  const args = ['node_modules/eslint/bin/eslint.js', '--format', 'json', '--stdin', '--stdin-filename', 'src/audit/audit.ts']
  const input = BANNED.map(([code]) => code).join('\n')
  const { stdout } = spawnSync(process.execPath, args, { cwd: ROOT, input, encoding: 'utf8' })
  const [result] = JSON.parse(stdout) as [Result]

  it.each(BANNED.map(([code, rule], index) => ({ code, rule, line: index + 1 })))('catch: $code', ({ rule, line }) => {
    expect(result.messages.filter((message) => message.line === line).map((message) => message.ruleId)).toContain(rule)
  })
})
