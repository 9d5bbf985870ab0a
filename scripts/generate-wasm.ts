/** Compiles src/bb84/fourier-toeplitz.as into src/generated/fourier-toeplitz-wasm.ts, so that nobody has to at install. The output depends on the
 *  source and the version of AssemblyScript only. With --check it writes nothing, and fails when the committed file is stale. */
import { readFile, writeFile } from 'node:fs/promises'

interface Compiler {
  main(
    options: readonly string[],
    system: {
      readFile(name: string): string | null
      writeFile(name: string, contents: Uint8Array | string): void
      listFiles(): readonly string[]
      readonly stderr: { write(text: unknown): void }
    },
  ): Promise<{ readonly error: Error | null }>
}

// Under a name the type checker does not follow: the package's types change Array and the other built-in types for the whole project.
const ASSEMBLYSCRIPT: string = 'assemblyscript/asc'
const { default: asc } = (await import(ASSEMBLYSCRIPT)) as { readonly default: Compiler }

const SOURCE = new URL('../src/bb84/fourier-toeplitz.as', import.meta.url)
const TARGET = new URL('../src/generated/fourier-toeplitz-wasm.ts', import.meta.url)
// The compiler insists on the ending .ts, which would make the file TypeScript for every other tool.
const ENTRY = 'fourier-toeplitz.ts'
const BINARY = 'fourier-toeplitz.wasm'

const source = await readFile(SOURCE, 'utf8')
let binary: Uint8Array | undefined
let messages = ''
const { error } = await asc.main([ENTRY, '--outFile', BINARY, '-O3', '--noAssert', '--runtime', 'stub', '--enable', 'simd'], {
  readFile: (name) => (name === ENTRY ? source : null),
  writeFile: (name, contents) => {
    if (name === BINARY && typeof contents !== 'string') binary = contents
  },
  listFiles: () => [],
  stderr: {
    write: (text) => {
      messages += String(text)
    },
  },
})
if (error !== null || binary === undefined) throw new Error(`AssemblyScript: ${error?.message ?? 'no output'}\n${messages}`)

const base64 = Buffer.from(binary).toString('base64')
const lines = base64.match(/.{1,120}/g) ?? []
const text = `/**
 * This file was generated from src/bb84/fourier-toeplitz.as by "npm run generate:wasm".
 * Do not make direct changes to the file.
 */

/** A WebAssembly module, in base64. */
export const FOURIER_TOEPLITZ_WASM =
${lines.map((line, i) => `  ${i === 0 ? '' : '  '}'${line}'`).join(' +\n')}
`
if (!process.argv.includes('--check')) {
  await writeFile(TARGET, text)
} else if (text !== (await readFile(TARGET, 'utf8').catch(() => ''))) {
  console.error(
    'src/generated/fourier-toeplitz-wasm.ts is older than its source. Run "npm run generate:wasm" and commit the result.',
  )
  process.exitCode = 1
}
