/** An OpenAPI document as a judge in tests: every request sent and every answer seen is checked against it.
 *  Holds: what the document does not list is a fault, be it a status, a media type, a member or a path. */
import { readFileSync } from 'node:fs'
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormatsModule from 'ajv-formats'
import { parse } from 'yaml'

interface MediaType {
  readonly schema?: unknown
}

interface ResponseObject {
  readonly $ref?: string
  readonly headers?: Readonly<Record<string, unknown>>
  readonly content?: Readonly<Record<string, MediaType>>
}

interface ParameterObject {
  readonly $ref?: string
  readonly name: string
  readonly in: 'query' | 'path' | 'header'
  readonly required?: boolean
  readonly schema?: unknown
}

interface OperationObject {
  readonly operationId: string
  readonly parameters?: readonly ParameterObject[]
  readonly requestBody?: { readonly required?: boolean; readonly content: Readonly<Record<string, MediaType>> }
  readonly responses: Readonly<Record<string, ResponseObject>>
  readonly security?: readonly Readonly<Record<string, readonly string[]>>[]
}

interface Document {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, OperationObject>> & { readonly parameters?: readonly ParameterObject[] }>
  >
  readonly components: { readonly responses?: Readonly<Record<string, ResponseObject>> }
}

const METHODS = ['get', 'post', 'put', 'delete', 'patch', 'head', 'options'] as const

/** One operation of the document, found for a concrete request. */
export interface Operation {
  readonly operationId: string
  /** Upper case. */
  readonly method: string
  /** The path with its `{names}`. */
  readonly template: string
  /** The values of the names, percent-decoded. */
  readonly pathParameters: Readonly<Record<string, string>>
  /** What the operation's `security` asks for: the scopes of its only scheme, or none. */
  readonly scopes: readonly string[]
}

export interface Contract {
  /** All operations, in the document's order; their path parameters are empty. */
  readonly operations: readonly Operation[]
  /** @returns the operation that serves the request, or undefined. A literal path wins over a template. */
  operationFor(method: string, url: string): Operation | undefined
  /** @param url path with query, absolute or not. @param body the text as sent, undefined for none.
   *  @throws Error saying what the document does not allow. */
  checkRequest(method: string, url: string, contentType: string | undefined, body: string | undefined): void
  /** A path outside the document must be answered as `components.responses.NotFound`, a method a path does not know as `MethodNotAllowed`.
   *  @param url path with query, absolute or not. @param body the text as received, empty for none.
   *  @returns the parsed body, undefined when there is none.
   *  @throws Error saying what the document does not allow. */
  checkResponse(method: string, url: string, status: number, contentType: string | undefined, body: string | Uint8Array): unknown
}

/** @param file path of an OpenAPI 3.1 document in YAML. */
export const createContract = (file: string): Contract => {
  const document = parse(readFileSync(file, 'utf8')) as Document
  const ajv = new Ajv2020({ allErrors: true, strict: true, strictRequired: false, allowUnionTypes: true })
  const addFormats = addFormatsModule as unknown as (target: Ajv2020) => void
  addFormats(ajv)
  ajv.addVocabulary(['openapi', 'info', 'servers', 'security', 'tags', 'paths', 'components'])
  ajv.addSchema(document, 'document')

  const validators = new Map<string, ValidateFunction>()
  const validatorAt = (steps: readonly string[]): ValidateFunction => {
    const pointer = steps.map((step) => encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/')
    const known = validators.get(pointer)
    if (known !== undefined) return known
    const made = ajv.compile({ $ref: `document#/${pointer}` })
    validators.set(pointer, made)
    return made
  }

  const stepsOf = (ref: string): string[] => ref.replace(/^#\//, '').split('/')
  const resolve = <T extends { readonly $ref?: string }>(value: T, steps: readonly string[]): [T, readonly string[]] => {
    if (value.$ref === undefined) return [value, steps]
    const target = stepsOf(value.$ref)
    return [target.reduce<unknown>((node, step) => (node as Record<string, unknown>)[step], document) as T, target]
  }

  const operations: Operation[] = Object.entries(document.paths).flatMap(([template, item]) =>
    METHODS.flatMap((method) => {
      const operation = item[method]
      if (operation === undefined) return []
      const scopes = (operation.security ?? []).flatMap((scheme) => Object.values(scheme).flat())
      return [{ operationId: operation.operationId, method: method.toUpperCase(), template, pathParameters: {}, scopes }]
    }),
  )

  const pathOf = (url: string): string => new URL(url, 'https://kme').pathname
  const matches = (template: string, path: string): Record<string, string> | undefined => {
    const names: string[] = []
    const pattern = template.replaceAll(/[.*+?^$()|[\]\\]/g, '\\$&').replaceAll(/\{([^}]+)\}/g, (_, name: string) => {
      names.push(name)
      return '([^/]+)'
    })
    const found = new RegExp(`^${pattern}$`).exec(path)
    if (found === null) return undefined
    return Object.fromEntries(names.map((name, i) => [name, decodeURIComponent(found[i + 1] ?? '')]))
  }
  const onPath = (url: string): Operation[] => {
    const path = pathOf(url)
    const found = operations.flatMap((operation) => {
      const pathParameters = matches(operation.template, path)
      return pathParameters === undefined ? [] : [{ ...operation, pathParameters }]
    })
    return found.sort((one, other) => Object.keys(one.pathParameters).length - Object.keys(other.pathParameters).length)
  }
  const operationFor = (method: string, url: string): Operation | undefined =>
    onPath(url).find((operation) => operation.method === method.toUpperCase())

  const responseFor = (method: string, url: string, status: number): [ResponseObject, readonly string[]] => {
    const operation = operationFor(method, url)
    if (operation !== undefined) {
      const steps = ['paths', operation.template, operation.method.toLowerCase(), 'responses', String(status)]
      const response = document.paths[operation.template]?.[operation.method.toLowerCase()]?.responses[String(status)]
      if (response === undefined) throw new Error(`${operation.operationId} lists no status ${status}`)
      return resolve(response, steps)
    }
    const [name, only] = onPath(url).length > 0 ? ['MethodNotAllowed', 405] : ['NotFound', 404]
    const response = document.components.responses?.[name]
    if (status !== only || response === undefined)
      throw new Error(`the document has no ${method} ${pathOf(url)}, so only ${only} may answer it, not ${status}`)
    return [response, ['components', 'responses', name]]
  }

  const check = (validate: ValidateFunction, value: unknown, what: string): void => {
    if (!validate(value)) throw new Error(`${what}: ${describe(validate.errors ?? [])}`)
  }

  const checkResponse: Contract['checkResponse'] = (method, url, status, contentType, body) => {
    const what = `${method} ${url} answered ${status}`
    const text = typeof body === 'string' ? body : new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body)
    const [response, steps] = responseFor(method, url, status)
    if (response.content === undefined || method.toUpperCase() === 'HEAD') {
      if (text !== '') throw new Error(`${what} with a body of ${text.length} characters where none may be`)
      return undefined
    }
    const mediaType = (contentType ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
    const media = response.content[mediaType]
    if (media === undefined)
      throw new Error(`${what} as "${contentType ?? ''}", not as ${Object.keys(response.content).join(' or ')}`)
    const value: unknown = /[/+]json$/.test(mediaType) ? parseJson(text, what) : text
    if (media.schema !== undefined) check(validatorAt([...steps, 'content', mediaType, 'schema']), value, what)
    return value
  }

  const checkRequest: Contract['checkRequest'] = (method, url, contentType, body) => {
    const what = `${method} ${url}`
    const operation = operationFor(method, url)
    if (operation === undefined) throw new Error(`the document has no ${what}`)
    const item = document.paths[operation.template]
    const details = item?.[operation.method.toLowerCase()]
    const declared = [
      ...(item?.parameters ?? []).map((parameter, i) =>
        resolve(parameter, ['paths', operation.template, 'parameters', String(i)]),
      ),
      ...(details?.parameters ?? []).map((parameter, i) =>
        resolve(parameter, ['paths', operation.template, operation.method.toLowerCase(), 'parameters', String(i)]),
      ),
    ]
    const query = new URL(url, 'https://kme').searchParams
    for (const name of query.keys()) {
      if (!declared.some(([parameter]) => parameter.in === 'query' && parameter.name === name)) {
        throw new Error(`${what}: unknown query parameter ${name}`)
      }
      if (query.getAll(name).length > 1) throw new Error(`${what}: ${name} appears twice`)
    }
    for (const [parameter, steps] of declared) {
      const text = parameter.in === 'path' ? operation.pathParameters[parameter.name] : (query.get(parameter.name) ?? undefined)
      if (text === undefined && parameter.required === true) throw new Error(`${what}: ${parameter.name} is missing`)
      if (text === undefined) continue
      const isInteger = (parameter.schema as { type?: unknown } | undefined)?.type === 'integer'
      const value = isInteger && /^(0|[1-9][0-9]*)$/.test(text) ? Number(text) : text
      check(validatorAt([...steps, 'schema']), value, `${what}: ${parameter.name}`)
    }
    const expected = details?.requestBody
    if (body === undefined || body === '') {
      if (expected?.required === true) throw new Error(`${what}: the body is missing`)
      return
    }
    if (expected === undefined) throw new Error(`${what}: no body may be sent`)
    const mediaType = (contentType ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
    if (expected.content[mediaType] === undefined) {
      throw new Error(`${what}: sent as "${contentType ?? ''}", not as ${Object.keys(expected.content).join(' or ')}`)
    }
    const steps = ['paths', operation.template, operation.method.toLowerCase(), 'requestBody', 'content', mediaType, 'schema']
    check(validatorAt(steps), parseJson(body, what), what)
  }

  return { operations, operationFor, checkRequest, checkResponse }
}

const parseJson = (text: string, what: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error(`${what} with a body that is not JSON`)
  }
}

const describe = (errors: readonly ErrorObject[]): string =>
  errors
    .map(
      (error) =>
        `${error.instancePath === '' ? 'body' : error.instancePath} ${error.message ?? ''} ${JSON.stringify(error.params)}`,
    )
    .join('; ')
