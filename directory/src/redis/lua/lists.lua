-- Which sessions are shown.

-- The session as a list shows it, if it is visible, alive and fits.
local function fitting(id, filter, alive)
    local f = try('HMGET', session_key(id), 'region', 'owner', 'listing', 'until')
    local node, boot = split(f and f[2])
    local till = f and number(f[4])
    if not node or not till or till <= now or not f[1] or not f[3] or #f[3] > RECORD_BYTES_MAX then
        return nil
    end
    if alive[f[2]] == nil then
        local n = live(node)
        alive[f[2]] = n ~= nil and n.boot == boot
    end
    local readable, listing = pcall(cjson.decode, f[3])
    if not alive[f[2]] or not readable or type(listing) ~= 'table' then
        return nil
    end
    local players, seats = listing.players, listing.max_players
    if type(players) ~= 'number' or type(seats) ~= 'number' then
        return nil
    end
    local fits = (filter.unlisted == '1' or listing.visibility == 'public')
        and (filter.region == '' or filter.region == '=' .. f[1])
        and (filter.app_version == '' or filter.app_version == '=' .. tostring(listing.app_version))
        and math.max(0, seats - players) >= filter.open_seats
    return fits and f or nil
end

local function page(after, limit, filter)
    local from = after == '' and '-' or '(' .. after
    local ids = call('ZRANGE', LISTED, from, '+', 'BYLEX', 'LIMIT', 0, LIST_SCAN_MAX + 1)
    local reply, alive, shown, last = { 'list', '' }, {}, 0, 0
    for i = 1, math.min(#ids, LIST_SCAN_MAX) do
        last = i
        local f = hex(ids[i], 32) and fitting(ids[i], filter, alive)
        if f then
            reply[#reply + 1] = ids[i]
            reply[#reply + 1] = f[1]
            reply[#reply + 1] = f[3]
            shown = shown + 1
        end
        if shown == limit then
            break
        end
    end
    if last < #ids then
        reply[2] = ids[last]
    end
    return reply
end
