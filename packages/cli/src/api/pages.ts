/** Every page of a list, by its cursor. */
export async function* everyPage<P extends { next_cursor: string | null }>(
  page: (cursor: string | undefined) => Promise<P>,
): AsyncGenerator<P> {
  let cursor: string | undefined;
  do {
    const answer = await page(cursor);
    yield answer;
    cursor = answer.next_cursor ?? undefined;
  } while (cursor !== undefined);
}
