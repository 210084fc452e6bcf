/** Rows of the channel domain, of use only where several server processes share a database. Times are milliseconds since 1970. */
export interface ChannelTables {
  agent_connections: {
    /** The node's uid. */
    agent_id: string;
    /** Names the connection: another one of the same node has another. */
    session_token: string;
    server_id: string;
    connected_at: number;
    expires_at: number;
    /** JSON object: `channels` that the node named in its hello. */
    metadata: string;
  };
  channel_servers: {
    id: string;
    /** By the database's clock: a process that died says nothing more. */
    seen_at: number;
  };
}
