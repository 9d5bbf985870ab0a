/** Writes src/generated/NAME.ts for each openapi/NAME.yaml. With --check it writes nothing, and fails when a committed file is stale. */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import openapiTS, { astToString, COMMENT_HEADER } from 'openapi-typescript'

const CONTRACTS = new URL('../openapi/', import.meta.url)
const GENERATED = new URL('../src/generated/', import.meta.url)

const check = process.argv.includes('--check')
const stale: string[] = []
for (const file of (await readdir(CONTRACTS)).filter((name) => name.endsWith('.yaml'))) {
  const types = COMMENT_HEADER + astToString(await openapiTS(new URL(file, CONTRACTS)))
  const target = new URL(file.replace(/\.yaml$/, '.ts'), GENERATED)
  if (!check) await writeFile(target, types)
  else if (types !== (await readFile(target, 'utf8').catch(() => ''))) stale.push(file)
}
if (stale.length > 0) {
  console.error(`Types are older than their contract: ${stale.join(', ')}. Run "npm run generate:openapi" and commit the result.`)
  process.exitCode = 1
}
