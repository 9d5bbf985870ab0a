import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { PrismaPg } from '@prisma/adapter-pg'
import { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum } from '@prisma/driver-adapter-utils'
import pg from 'pg'
import * as engine from '../../node_modules/@prisma/schema-engine-wasm/schema_engine_bg.js'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'

const schemaPath = fileURLToPath(new URL('../../prisma/schema.prisma', import.meta.url))
const wasmPath = fileURLToPath(new URL('../../node_modules/@prisma/schema-engine-wasm/schema_engine_bg.wasm', import.meta.url))

// Part of Node.js; TypeScript declares it for browsers only.
declare const WebAssembly: { instantiate(bytes: Uint8Array, imports: object): Promise<{ instance: { exports: unknown } }> }

// The schema engine reads PostgreSQL's catalogue, which has columns of the internal type "char" that the adapter does not
// know. The catalogue has no dates: the type goes through the adapter in place of DATE and is named rightly behind it.
Object.assign(pg.types.builtins, { DATE: pg.types.builtins.CHAR })

const catalogueAdapter = (url: string): PrismaPg => {
  const factory = new PrismaPg({ connectionString: url })
  const connect = factory.connect.bind(factory)
  factory.connect = async () => {
    const adapter = await connect()
    const queryRaw = adapter.queryRaw.bind(adapter)
    adapter.queryRaw = async (query) => {
      const result = await queryRaw(query)
      const { Date, Character } = ColumnTypeEnum
      return { ...result, columnTypes: result.columnTypes.map((type) => (type === Date ? Character : type)) }
    }
    return adapter
  }
  return factory
}

/** Prisma's own schema engine, as WebAssembly: no binary is downloaded. */
const openEngine = async (url: string): Promise<engine.SchemaEngine> => {
  const { instance } = await WebAssembly.instantiate(readFileSync(wasmPath), { './schema_engine_bg.js': engine })
  engine.__wbg_set_wasm(instance.exports)
  ;(instance.exports as { __wbindgen_start(): void }).__wbindgen_start()
  const adapter = bindMigrationAwareSqlAdapterFactory(catalogueAdapter(url))
  return engine.SchemaEngine.new({ datamodels: undefined }, () => undefined, adapter)
}

// A panic of the engine must end as a failed test, not as a promise that never settles.
Object.assign(globalThis, {
  PRISMA_WASM_PANIC_REGISTRY: {
    set_message: (message: string) => {
      throw new Error(message)
    },
  },
})

describe('the migrations and schema.prisma', () => {
  let database: TestDatabase
  let schemaEngine: engine.SchemaEngine

  beforeAll(async () => {
    database = await createTestDatabase()
    schemaEngine = await openEngine(database.url)
  })
  afterAll(async () => {
    await database?.drop()
  })

  /** The SQL that would turn the migrated database into what a schema describes. */
  const differenceTo = async (content: string): Promise<string> => {
    const files = [{ path: schemaPath, content }]
    const result = await schemaEngine.diff({
      from: { tag: 'schemaDatasource', files, configDir: '.' },
      to: { tag: 'schemaDatamodel', files },
      script: true,
      exitCode: null,
      shadowDatabaseUrl: null,
      filters: { externalTables: ['public._prisma_migrations'], externalEnums: [] },
    } as never)
    return result.stdout ?? ''
  }

  it('describe the same database', async () => {
    expect(await differenceTo(readFileSync(schemaPath, 'utf8'))).toContain('This is an empty migration')
  })

  it('are told apart when a column is missing', async () => {
    const schema = readFileSync(schemaPath, 'utf8').replace('  sizeBits    Int       @map("size_bits")\n', '')
    expect(await differenceTo(schema)).toContain('DROP COLUMN "size_bits"')
  })
})
